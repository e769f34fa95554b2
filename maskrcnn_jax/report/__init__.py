"""Reports as HTML pages: one of an evaluation, one of a training run.

Each page is one file that needs no network. The page of an evaluation shows detections, missed
objects and false detections. `measures` computes the numbers, `drawings` draws ground truth and
detections, and `page` fills both into ``page.html``, where ``page.js`` and the other scripts draw
tables, charts and lists. The page of a run shows curves, settings and results, which `run_page`
collects and ``run.js`` draws.
"""
