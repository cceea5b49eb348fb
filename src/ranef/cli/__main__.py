"""`python -m ranef.cli` is the command `ranef`."""

from ranef.cli.main import main

raise SystemExit(main())
