"""`python -m longshore`: the program in place of this interpreter."""

import os
import sys

from longshore import executable

if __name__ == "__main__":
    program = executable()
    os.execv(program, [str(program), *sys.argv[1:]])
