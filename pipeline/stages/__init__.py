"""One module a stage: reads artifacts, calls a pure module, writes artifacts."""
