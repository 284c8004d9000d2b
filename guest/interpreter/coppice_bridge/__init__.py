"""Between the host's protocol and a runtime of any language, which is a process of its own."""
