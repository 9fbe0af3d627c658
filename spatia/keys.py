"""Every string key that two modules share: file names, table columns, element names, stains."""

# --- elements of slide.zarr (SpatialData) ---
MORPHOLOGY = "morphology"  # image (c, y, x), the stains
HE = "he"  # image (3, y, x), H&E brought into the morphology frame
CELL_LABELS = "cell_labels"  # labels (y, x), uint32, 0 = background
NUCLEUS_LABELS = "nucleus_labels"
CELL_BOUNDARIES = "cell_boundaries"  # polygons in micrometres
NUCLEUS_BOUNDARIES = "nucleus_boundaries"
TRANSCRIPTS = "transcripts"
TABLE = "table"
GLOBAL = "global"  # coordinate system, in pixels

# --- columns ---
CELL_ID = "cell_id"  # str, the bundle's own id, the key of every cell table
CELL_LABEL = "cell_label"  # uint32, the cell's value in CELL_LABELS
SLIDE = "slide"
X_UM = "x_um"  # cell centroid in the slide's frame
Y_UM = "y_um"
CELL_AREA_UM2 = "cell_area_um2"
NUCLEUS_AREA_UM2 = "nucleus_area_um2"
N_COUNTS = "n_counts"
N_GENES = "n_genes"
N_CONTROLS = "n_controls"  # negative control probes + codewords of all kinds
KEEP = "keep"  # bool: passed every filter
REASON = "reason"  # str: the first filter that removed the cell, "" when kept
NICHE = "niche"  # int: row of the niche table
TISSUE = "tissue"  # int: row of the tissue table

# control columns of 10x cell tables, summed into N_CONTROLS
CONTROL_COLUMNS = (
    "control_probe_counts",
    "control_codeword_counts",
    "genomic_control_counts",
    "unassigned_codeword_counts",
    "deprecated_codeword_counts",
)

# --- geometry shared by every stage (paper, App. A; decisions A31) ---
PIXEL_SIZE_UM = 0.2125  # Xenium morphology, full resolution
NICHE_PX = 256
NICHES_PER_TISSUE = 4  # along one side
CHUNK_PX = 1024  # chunk of slide.zarr = one tissue window

# --- stains: names as XOA 2.x - 4.x write them in the OME-XML ---
DAPI = "DAPI"
BOUNDARY_STAIN = "ATP1A1/CD45/E-Cadherin"
INTERIOR_RNA_STAIN = "18S"
INTERIOR_PROTEIN_STAIN = "AlphaSMA/Vimentin"

# --- values of `split` in slides.tsv ---
SPLITS = ("train", "val", "test", "apply", "qc")
SIMULATED = "simulated"  # value of `bundle` in slides.tsv: written by the simulate stage
