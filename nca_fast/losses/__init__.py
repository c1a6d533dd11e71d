"""What training minimises: `style` (how near is the texture) and `regularizers` (is the state in bounds, is it smooth).

All are sums over cells and samples, so that weights between them hold for every canvas size and batch.
"""
