"""The HTTP service: routes look down on the keeper of models, the keeper on batchers, a batcher on one engine."""
