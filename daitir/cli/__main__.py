import sys

from daitir.cli.main import main

sys.exit(main())
