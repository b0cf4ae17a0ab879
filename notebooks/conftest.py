"""What nbval does not compare: pictures and pages, which differ by machine, and logs, which are no result."""

SKIPPED = ("stderr", "text/html", "image/svg+xml", "application/vnd.plotly.v1+json")


def pytest_collectstart(collector):
    if hasattr(collector, "skip_compare"):
        collector.skip_compare += SKIPPED
