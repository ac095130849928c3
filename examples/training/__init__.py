"""What the training examples share: data order, one process for each framework, agreement, tables and pictures.

Nothing here imports a framework: the models and their training steps are each example's own, native code.
"""
