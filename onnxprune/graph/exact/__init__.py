"""What is known of every value, what nobody needs, and how the difference it makes is written into the readers.

`forward` finds known values, `backward` the channels that no output depends on, `rewrite` changes readers so that more
of them don't; deletion itself is that of `onnxprune.graph.remove`. `onnxprune.graph.shrink` puts them together.
"""
