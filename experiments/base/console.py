"""``glioma-suite COMMAND``: the commands of ``python -m experiments.COMMAND`` by one name, from any folder."""

import difflib
import io
import runpy
import sys
import warnings
from contextlib import redirect_stdout, suppress

from common.command_line import options_in
from common.runs import version
from common.signals import until_unread
from experiments.base.runs import commands, purpose

USAGE = "usage: glioma-suite COMMAND [OPTIONS]; glioma-suite COMMAND --help tells more of one"
COMPLETION, VERSION = "--completion", "--version"
SHELLS = {"bash": "", "zsh": "autoload -Uz compinit bashcompinit && compinit && bashcompinit\n"}
"""What a shell needs before SHELL."""
SHELL = """\
# Completes glioma-suite, its commands and their options in {shell}. To install it, or renew it after an update:
#   glioma-suite --completion {shell} > ~/.glioma-suite.{shell}
#   echo 'source ~/.glioma-suite.{shell}' >> ~/.{shell}rc    # once; it works in the next shell
{first}_glioma_suite() {{
  local options word=${{COMP_WORDS[COMP_CWORD]}}
  if ((COMP_CWORD == 1)); then
    options="{commands}"
  else
    case ${{COMP_WORDS[1]}} in
{options}
    esac
    [[ $word == -* ]] || return
  fi
  COMPREPLY=($(compgen -W "$options" -- "$word"))
}}
complete -o default -F _glioma_suite glioma-suite
"""
"""What is no option is a file's name."""


def main() -> None:
    """Run the command that is named; list all of them where none is."""
    with until_unread():
        _main()


def _main() -> None:
    known = {name.replace("_", "-"): name for name in commands()}
    if len(sys.argv) < 2 or sys.argv[1] in ("-h", "--help"):
        print(f"{USAGE}; glioma-suite {COMPLETION} prints a shell's completion, {VERSION} the version")
        for said, name in known.items():
            print(f"{said}\n    {purpose(name)}")
        print("list\n    The experiments with the report's values, and what they have come to.")
        return
    if sys.argv[1] == COMPLETION:
        shell, *further = sys.argv[2:] or ["bash"]
        if shell not in SHELLS or further:
            sys.exit(f"error: expected {COMPLETION} {' or '.join(SHELLS)}, received {' '.join([shell, *further])}")
        print(completion(known, shell), end="")
        return
    if sys.argv[1] == VERSION:
        print(f"glioma-suite {version()}")
        return
    wanted = sys.argv[1]
    module = "experiments" if wanted == "list" else f"experiments.{known.get(wanted.replace('_', '-'))}"
    if module == "experiments.None":
        near = difflib.get_close_matches(wanted, known, n=1)
        sys.exit(f"error: there is no command {wanted}{f'; {near[0]}?' if near else ''}\n{USAGE}")
    sys.argv[:2] = [f"glioma-suite {wanted}"]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def completion(known: dict[str, str], shell: str) -> str:
    """A shell's function that completes commands, by name of their module, and the options that each one's help has."""
    lines = []
    for said, name in known.items():
        sys.argv[:] = [f"glioma-suite {said}", "--help"]
        with redirect_stdout(io.StringIO()) as written, suppress(SystemExit), warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # of a module that another one had imported before
            runpy.run_module(f"experiments.{name}", run_name="__main__", alter_sys=True)
        options = options_in(written.getvalue())
        lines.append(f'      {said}) options="{" ".join(options)}" ;;')
    told = {"commands": " ".join([*known, "list"]), "options": "\n".join(lines)}
    return SHELL.format(shell=shell, first=SHELLS[shell], **told)
