"""embedsvc where RAG apps are built: :mod:`.langchain`, :mod:`.haystack`, :mod:`.llama_index`, each by its framework's
own classes over the Python API, and each with an extra of the same name (``embedsvc[langchain]`` …).

What they share: :mod:`embedsvc.conditions` (filters), :mod:`.citing` (scores, and where a hit stands), :mod:`.storing`
(what comes of documents that are put in or taken out).
"""
