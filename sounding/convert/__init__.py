"""Published weights to our one-file form: AudioLDM, CLIP, CLAP and HiFi-GAN, in the forms their publishers ship.

`assemble.convert` is the main path. One module a family of weights maps published names to those of our parts
(`audioldm`, `clip`, `clap`, `hifigan`); `read` and `archive` read files without ever executing what is in them.
"""
