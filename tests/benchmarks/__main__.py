"""The door: `python -m tests.benchmarks NAME`.

Nothing is loaded here before it is called: each process that a benchmark starts loads this module anew.
"""

import sys

if __name__ == "__main__":
    from tests.benchmarks.command import main

    sys.exit(main())
