"""The simulated gene panel: marker genes of the states, one program that only genes show, and fillers.

Gene symbols are real, their levels are invented. The identifiers are shaped like Ensembl's but lie outside the
numbers that Ensembl uses, so that nobody takes them for the real ones.
"""

from __future__ import annotations

import pandas as pd

from spatia.xenium.simulate.slide import (
    CONTROL_CODEWORD,
    CONTROL_PROBE,
    GENE,
    GENOMIC_CONTROL,
    PROTEIN,
    UNASSIGNED_CODEWORD,
)

LINEAGE_MARKERS = {
    "epithelial": "EPCAM KRT8 KRT18 KRT19 KRT7 CDH1 ELF3 CLDN4 MUC1 TACSTD2 ERBB2 ERBB3 DSP SPINT2 "
    "CLDN7 CLDN3 AGR2 S100P LCN2 GPRC5A CD24 MAL2 ESRP1 RAB25 AP1M2 PRSS8",
    "T cell": "CD3E CD3D CD3G TRAC CD2 LTB CD69 IKZF1 RUNX3 STAT4",
    "endothelial": "PECAM1 VWF CDH5 KDR EGFL7 TIE1 ROBO4 MMRN2 ERG SOX17 CLDN5",
    "fibroblast": "LUM DCN SFRP2 THBS2 FBN1 PDGFRA PDGFRB POSTN CTSK CCDC80 SFRP4 MMP2 IGF1 CXCL12 "
    "COL5A2 FAP ASPN DPT MFAP5 PDPN",
    "macrophage": "CD163 CD68 MS4A4A C1QA C1QC FCGR3A CD14 MRC1 ITGAX AIF1 LYZ FCER1G MS4A6A",
}
# shared by two lineages, as much of what stroma makes is
SHARED_MARKERS = {
    ("fibroblast", "endothelial"): "SPARC COL1A2 BGN CALD1 TAGLN IGFBP7 TIMP3 LAMA4 A2M",
    ("T cell", "macrophage"): "PTPRC CXCR4 CD53 CORO1A LCP1 SRGN",
}
STATE_MARKERS = {
    "Epi_FOXA1+": "FOXA1 GATA3 ESR1 XBP1 AR TFF3 ANKRD30A MLPH SPDEF",
    "EMT-Epi1_CEACAM6+": "CEACAM6 CEACAM5 LAMC2 ITGA3 SERPINE1 SNAI2 S100A4 LAMB3 PLAUR AREG TGFBI",
    "Epi_CENPF+": "CENPF MKI67 TOP2A UBE2C CDK1 BUB1 CCNB1 AURKA HMMR TPX2 PCLAF",
    "mgEpi_KRT14+": "KRT14 KRT5 KRT17 ACTA2 MYLK OXTR TP63 DST SAMD5 CNN1 ACTG2",
    "Epi_normal": "KRT15 PIGR ELF5 KIT LTF SLPI ALDH1A3 SCGB2A1 PROM1 FXYD2",
    "tcm_CD4+T": "CD4 IL7R CCR7 SELL TCF7 LEF1 CD28 CD40LG MAL",
    "eff_CD8+T1": "CD8A CD8B GZMB GZMK PRF1 NKG7 CCL5 KLRD1 IFNG GNLY CTSW",
    "EC_CAVIN2+": "CAVIN2 CAV1 AQP1 CD36 RBP7 FABP4 GNG11 TIMP4 CD300LG",
    "EC_CLEC14A+": "CLEC14A ESM1 ANGPT2 PLVAP HSPG2 INSR COL4A1 PXDN APLN CD34",
    "Fibroblast": "",
    "Macrophage": "",
}
# raised in the cells of gene_class "interferon": no picture and no surrounding shows it
INTERFERON_GENES = "ISG15 IFI6 IFIT1 IFIT3 MX1 OAS1 OAS3 IFI44L RSAD2 STAT1 CMPK2 XAF1"
FILLERS = """
ACADM ACO2 ACTR3 ADAM17 ADAR AGO2 AKAP9 AKT1 AKT2 ALDOA ANAPC5 ANXA7 AP1B1 AP2A1 APC ARF1 ARID1A ARID1B ARPC2 ASH1L
ATF4 ATF6 ATG5 ATM ATP5F1A ATR ATRX AXIN1 BAP1 BCL2L1 BECN1 BIRC2 BRAF BRD2 BRD4 BUD31 CALR CANX CASP3 CASP8 CBL CBX3
CCND3 CCT2 CDC42 CDK12 CDK4 CDK9 CHD4 CHD8 CHUK CIC CLTC CNOT1 COPA COPB1 CREB1 CREBBP CSDE1 CSNK1A1 CTCF CTNNA1 CUL1
CUL3 CYLD DAXX DDB1 DDX3X DDX5 DDX6 DHX9 DICER1 DNM2 DNMT1 DYNC1H1 EEF2 EHMT1 EIF4E EIF4G1 ELAVL1 EP300 ESYT1 EZR FBXW7
FLII FOXO3 FUBP1 FUS G3BP1 GAK GIGYF2 GSK3B HDAC1 HDAC2 HDAC3 HIPK1 HNRNPK HNRNPU HSPA4 HSPA8 HSPD1 HUWE1 IDH3A IKBKB
ILF3 IQGAP1 IRF3 ITCH JAK1 JMJD6 KAT6A KDM2A KDM5A KDM6A KEAP1 KHDRBS1 KIF5B KMT2A KMT2C KPNB1 KRAS LAMP1 LMNB2 MAP2K1
MAP2K4 MAP3K1 MAPK1 MAPK14 MAX MCL1 MDM2 MDM4 MED1 MED12 MGA MSH2 MSH6 MTOR MYH9 NBN NCOA3 NCOR1 NCOR2 NF1 NF2 NFE2L2
NFKB1 NIPBL NONO NPM1 NRAS NSD1 NUP98 OGT PARP1 PBRM1 PCBP2 PDCD6IP PHF6 PIK3CA PIK3R1 POLR2A PPP2R1A PPP6C PRKAR1A
PRPF8 PSMB5 PSMD1 PTBP1 PTEN PTPN11 RAB5A RAB7A RAC1 RAD21 RAF1 RANBP2 RB1 RBM10 RBM39 RBMX RELA RHOA RNF43 RPTOR SETD2
SF1 SF3B1 SIN3A SMAD2 SMAD4 SMARCA4 SMARCB1 SMC1A SMC3 SOS1 SP1 SPEN SPOP SRSF2 STAG2 STAT3 STK11 TAF1 TBL1XR1 TCF12
TET2 TP53 TRAF3 TRRAP TSC1 TSC2 U2AF1 UBR5 USP7 USP9X VCP VHL WAPL XPO1 YAP1 YWHAE ZFP36L1 ZMYM2 ZNF148
"""
N_CONTROL_PROBES, N_CONTROL_CODEWORDS, N_UNASSIGNED = 20, 41, 60
N_GENOMIC_CONTROLS = 10  # from layout 3.0
PROTEINS = ("CD45", "PanCK", "CD31", "Vimentin", "CD68")  # from layout 4.0


def gene_names() -> list[str]:
    """Return the panel's genes, each once, in a fixed order that no state sorts."""
    texts = [*LINEAGE_MARKERS.values(), *SHARED_MARKERS.values(), *STATE_MARKERS.values(), INTERFERON_GENES, FILLERS]
    return sorted({gene for text in texts for gene in text.split()})


def make_features(layout: str) -> pd.DataFrame:
    """Return the features of a bundle of this layout: columns ``id``, ``name``, ``type``."""
    genes = gene_names()
    rows = [(f"ENSG9{number:010d}", gene, GENE) for number, gene in enumerate(genes, 1)]
    rows += [(f"NegControlProbe_{n:05d}", f"NegControlProbe_{n:05d}", CONTROL_PROBE) for n in range(N_CONTROL_PROBES)]
    rows += [
        (f"NegControlCodeword_{n:04d}", f"NegControlCodeword_{n:04d}", CONTROL_CODEWORD)
        for n in range(500, 500 + N_CONTROL_CODEWORDS)
    ]
    rows += [
        (f"UnassignedCodeword_{n:04d}", f"UnassignedCodeword_{n:04d}", UNASSIGNED_CODEWORD) for n in range(N_UNASSIGNED)
    ]
    if float(layout) >= 3:
        rows += [
            (f"Intergenic_Region_{n}", f"Intergenic_Region_{n}", GENOMIC_CONTROL) for n in range(N_GENOMIC_CONTROLS)
        ]
    if float(layout) >= 4:
        rows += [(protein, protein, PROTEIN) for protein in PROTEINS]
    return pd.DataFrame(rows, columns=["id", "name", "type"])
