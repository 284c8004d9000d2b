"""A MIME bundle of IPython's as the fields of an E2B result."""

import base64

FIELDS = {
    "text/plain": "text",
    "text/html": "html",
    "text/markdown": "markdown",
    "image/svg+xml": "svg",
    "image/png": "png",
    "image/jpeg": "jpeg",
    "application/pdf": "pdf",
    "text/latex": "latex",
    "application/json": "json",
    "application/javascript": "javascript",
    "e2b/data": "data",
    "e2b/chart": "chart",
}


def fields_of(bundle):
    """MIME types without a field of their own go into `extra`. Bytes become base64."""
    fields, extra = {}, {}
    for mime, value in bundle.items():
        if isinstance(value, (bytes, bytearray, memoryview)):
            value = base64.b64encode(bytes(value)).decode("ascii")
        elif isinstance(value, str) and mime in ("image/png", "image/jpeg", "application/pdf"):
            value = value.replace("\n", "")
        name = FIELDS.get(mime)
        if name is None:
            extra[str(mime)] = value
        elif name in ("json", "data", "chart") or isinstance(value, str):
            fields[name] = value
        else:
            fields[name] = str(value)
    if "text" in fields:
        fields["text"] = _unquoted(fields["text"])
    if extra:
        fields["extra"] = extra
    return fields


def _unquoted(text):
    if len(text) >= 2 and text[0] == text[-1] and text[0] in "'\"":
        return text[1:-1]
    return text
