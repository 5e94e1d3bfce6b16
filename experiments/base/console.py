"""``glioma-suite COMMAND``: the commands of ``python -m experiments.COMMAND`` by one name, from any folder."""

import difflib
import io
import runpy
import sys
import warnings
from contextlib import redirect_stdout, suppress

from common.command_line import options_in
from experiments.base.runs import commands, purpose

USAGE = "usage: glioma-suite COMMAND [OPTIONS]; glioma-suite COMMAND --help tells more of one"
COMPLETION = "--completion"
SHELL = """\
_glioma_suite() {{
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
"""For bash, and zsh's bashcompinit; what is no option is a file's name."""


def main() -> None:
    """Run the command that is named; list all of them where none is."""
    known = {name.replace("_", "-"): name for name in commands()}
    if len(sys.argv) < 2 or sys.argv[1] in ("-h", "--help"):
        print(f"{USAGE}; glioma-suite {COMPLETION} prints a shell's completion")
        for said, name in known.items():
            print(f"{said}\n    {purpose(name)}")
        print("list\n    The experiments with the report's values, and what they have come to.")
        return
    if sys.argv[1] == COMPLETION:
        print(completion(known), end="")
        return
    wanted = sys.argv[1]
    module = "experiments" if wanted == "list" else f"experiments.{known.get(wanted.replace('_', '-'))}"
    if module == "experiments.None":
        near = difflib.get_close_matches(wanted, known, n=1)
        sys.exit(f"error: there is no command {wanted}{f'; {near[0]}?' if near else ''}\n{USAGE}")
    sys.argv[:2] = [f"glioma-suite {wanted}"]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def completion(known: dict[str, str]) -> str:
    """A shell's function that completes commands, by name of their module, and the options that each one's help has."""
    lines = []
    for said, name in known.items():
        sys.argv[:] = [f"glioma-suite {said}", "--help"]
        with redirect_stdout(io.StringIO()) as written, suppress(SystemExit), warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # of a module that another one had imported before
            runpy.run_module(f"experiments.{name}", run_name="__main__", alter_sys=True)
        options = options_in(written.getvalue())
        lines.append(f'      {said}) options="{" ".join(options)}" ;;')
    return SHELL.format(commands=" ".join([*known, "list"]), options="\n".join(lines))
