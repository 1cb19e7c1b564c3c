"""`python -m sounding`: the commands where no `sounding` is on the path, as in ComfyUI's folder of packs."""

from .cli.app import app

app(prog_name="sounding")
