"""`plait completion`: print what makes a shell complete the commands and options of `plait`.

eval "$(plait completion bash)"       # in ~/.bashrc; zsh likewise
plait completion fish | source        # in config.fish
"""

from __future__ import annotations

import argparse
import sys

from argcomplete.shell_integration import shellcode


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", choices=("bash", "zsh", "fish", "powershell"))


def run(options: argparse.Namespace) -> int:
    sys.stdout.write(shellcode(["plait"], shell=options.shell) + "\n")
    return 0
