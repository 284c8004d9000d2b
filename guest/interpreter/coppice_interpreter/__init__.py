"""IPython's shell driven in process, over two pipes. The package's name keeps its modules apart from the user's."""
