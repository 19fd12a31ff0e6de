"""`python -m raypost.lab.simulator`: see run.py."""

from raypost.lab.simulator.run import main

raise SystemExit(main())
