"""A process and all that it has started, children of children too."""

from cluster.processes import Process, running


def tree(root: int) -> list[Process]:
    """The processes of the tree, the one with the pid `root` among them while it runs."""
    kin = running()
    found = {root}
    while more := {process.pid for process, of in kin.items() if of.parent in found} - found:
        found |= more
    return [process for process in kin if process.pid in found]
