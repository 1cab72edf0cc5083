"""The main job on one machine: a model server, the guarded proxy before it, and a tour with every number checked.

``demo.toml`` beside this file is the settings that the proxy is guarded by; it is a file to start from.
"""
