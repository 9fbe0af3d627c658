"""Cell groups for Xenium Explorer: csv files with the columns ``cell_id,group``."""

from __future__ import annotations

import pandas as pd

from spatia import keys
from spatia.report.labels import label_column

GROUP = "group"
KEPT, REMOVED, UNLABELLED = "kept", "removed", "unlabelled"


def cell_groups(
    cells: pd.DataFrame, tiles: pd.DataFrame, labels: pd.DataFrame | None, clusters: pd.Series
) -> dict[str, pd.Series]:
    """Return the groups of every cell of the bundle, by file name.

    Parameters
    ----------
    cells : QC table, index ``cell_id``, columns ``keep`` and ``reason``
    tiles : membership of kept cells, index ``cell_id``, columns ``niche`` and ``tissue``
    labels : the user's labels, index ``cell_id``, one column per annotation
    clusters : cluster of the embedding of kept cells, index ``cell_id``
    """
    kept = cells[keys.KEEP].astype(bool)
    groups = {"qc": cells[keys.REASON].astype(str).where(~kept, KEPT)}
    for level in (keys.NICHE, keys.TISSUE):
        member = tiles[level].reindex(cells.index)
        groups[level] = member.map(lambda row, level=level: f"{level} {int(row)}", na_action="ignore").fillna(REMOVED)
    member = clusters.reindex(cells.index)
    groups["cluster"] = member.map(lambda cluster: f"cluster {int(cluster)}", na_action="ignore").fillna(REMOVED)
    if labels is not None:
        named = labels.reindex(cells.index).fillna(UNLABELLED)
        groups |= {label_column(str(name)): named[name] for name in named}
    return groups


def groups_csv(groups: pd.Series) -> str:
    """Return one annotation as csv text, cells in the order of the bundle."""
    table = pd.DataFrame({keys.CELL_ID: groups.index.astype(str), GROUP: groups.astype(str).to_numpy()})
    return table.to_csv(index=False, lineterminator="\n")
