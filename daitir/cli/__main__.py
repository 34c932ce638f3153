import sys

from daitir.cli import main

sys.exit(main())
