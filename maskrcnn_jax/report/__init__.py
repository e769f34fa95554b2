"""The page of an evaluation: what was found, missed and made up, in one HTML file that needs no network.

`measures` collects the numbers, `pictures` draws ground truth and detections, and `page` puts both into the template
beside it, where `page.js` and its neighbours draw tables, charts and lists from them.
"""
