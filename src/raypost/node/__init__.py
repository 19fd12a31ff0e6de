"""The composition root: settings to packages to stations; runs them, restarts them, stops cleanly."""
