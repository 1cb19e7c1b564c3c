"""The paper's figures, quoted.

Table 1: AudioCaps, ACC by PANNs, FAD by VGGish, KL and IS by AudioLDM-Eval, AVC by OpenL3. Table 9: the same by
ImageBind. Table 11: ImageHear, the clip-score by Wav2CLIP.
"""

from __future__ import annotations

COLUMNS = ("ACC", "FAD", "KL", "IS", "AVC", "OVL", "RET", "REI", "REO")
HIGHER_IS_BETTER = {name: name not in {"FAD", "KL"} for name in COLUMNS}
TABLE_1: dict[str, tuple[str, ...]] = {
    name: tuple(values.split())
    for name, values in {
        "Ground Truth": "/ / / / 0.962 4.12 4.02 4.06 /",
        "Retrieve & Separate": "0.276 4.051 1.572 1.550 0.764 2.73 2.54 2.76 2.49",
        "AudioLDM 1": "0.336 3.576 1.537 1.545 0.724 2.83 3.09 2.92 2.18",
        "AudioLDM 2": "0.513 2.976 1.162 1.779 0.743 2.98 3.19 3.09 2.47",
        "Captioning": "0.587 2.778 1.364 1.901 0.773 2.84 3.15 3.05 2.63",
        "Make-an-Audio": "0.309 3.555 1.443 1.673 0.712 2.74 3.06 2.89 2.08",
        "Im2Wav": "0.499 3.602 1.526 1.872 0.798 2.88 3.12 3.01 2.48",
        "SpecVQGAN": "0.611 2.515 1.142 1.965 0.825 2.94 3.26 3.11 2.51",
        "Diff-Foley": "0.683 1.908 0.783 2.010 0.842 3.09 3.43 3.32 2.52",
        "CoDi": "0.672 1.954 0.856 1.936 0.833 3.00 3.32 3.31 2.34",
        "Seeing & Hearing": "0.668 1.923 0.794 1.954 0.722 3.08 3.38 3.28 2.49",
        "FoleyCrafter": "0.732 1.760 0.665 2.007 0.811 3.19 3.48 3.32 2.60",
        "SSV2A": "0.806 1.265 0.525 2.100 0.893 3.22 3.50 3.35 3.48",
        "Ours": "0.859 1.271 0.517 2.102 0.891 3.31 3.62 3.48 3.74",
    }.items()
}
IMAGEBIND = {  # IB, table 9
    "Ground Truth": "0.66",
    "Retrieve & Separate": "0.29",
    "AudioLDM 1": "0.24",
    "AudioLDM 2": "0.27",
    "Captioning": "0.31",
    "Make-an-Audio": "0.19",
    "Im2Wav": "0.33",
    "SpecVQGAN": "0.37",
    "Diff-Foley": "0.39",
    "Ours": "0.45",
}
CLIP_SCORE = {  # CS, table 11
    "Make-an-Audio": "27.44",
    "Im2Wav": "9.53",
    "SpecVQGAN": "18.98",
    "Diff-Foley": "35.12",
    "Ours": "47.37",
}
