"""Runs the command `ranef` as `python -m ranef.cli`."""

from ranef.cli.main import main

raise SystemExit(main())
