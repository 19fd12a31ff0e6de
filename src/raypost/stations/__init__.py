"""The way of the data, one module a stop: intake, settle, route, pack, dispatch, collect, open, file, forward."""
