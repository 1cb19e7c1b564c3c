"""A ComfyUI server from outside: graphs in API form, upload, queue, files."""
