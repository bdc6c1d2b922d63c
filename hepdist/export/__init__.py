"""A trained run as files that need no hepdist: ONNX, a torch.export program, a MONAI bundle, each checked on real inputs, and a model card.

`export.export` is the door: it writes the formats, verifies them and writes the card. A file imports what its format needs when it is
called, since onnx and onnxruntime are an extra (`pip install 'hepdist[export]'`).
"""
