"""``glioma-suite COMMAND``: the commands of ``python -m experiments.COMMAND`` by one name, from any folder."""

import difflib
import runpy
import sys

from experiments.base.runs import commands, purpose

USAGE = "usage: glioma-suite COMMAND [OPTIONS]; glioma-suite COMMAND --help tells more of one"


def main() -> None:
    """Run the command that is named; list all of them where none is."""
    known = {name.replace("_", "-"): name for name in commands()}
    if len(sys.argv) < 2 or sys.argv[1] in ("-h", "--help"):
        print(USAGE)
        for said, name in known.items():
            print(f"{said}\n    {purpose(name)}")
        print("list\n    The experiments with the report's values, and what they have come to.")
        return
    wanted = sys.argv[1]
    module = "experiments" if wanted == "list" else f"experiments.{known.get(wanted.replace('_', '-'))}"
    if module == "experiments.None":
        near = difflib.get_close_matches(wanted, known, n=1)
        sys.exit(f"error: there is no command {wanted}{f'; {near[0]}?' if near else ''}\n{USAGE}")
    sys.argv[:2] = [f"glioma-suite {wanted}"]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
