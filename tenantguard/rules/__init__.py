"""Pure functions and state machines over the model: integers and bytes in, integers and bytes out."""
