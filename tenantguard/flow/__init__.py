"""How a request travels: effects, exchange, layer, stack, ports, session. No I/O, no clock, no thread."""
