"""Two pages, each one HTML file that needs no network: of an evaluation, and of a training run.

Of an evaluation: what was found, missed and made up. `measures` collects the numbers, `pictures` draws ground truth and
detections, and `page` puts both into the template beside it, where `page.js` and its neighbours draw tables, charts and
lists from them. Of a run: its curves, settings and results, which `run_page` collects and `run.js` shows.
"""
