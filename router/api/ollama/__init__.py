"""Ollama's API: a dialect that the engine does not speak, so requests and answers are translated here.

A request passes through `inference` (which model, which endpoint), `prompt` (its fields in llama-server's words) and
`generation` or `embedding` (the child's answer in Ollama's words). Begin with `endpoints`, the table of routes.
"""
