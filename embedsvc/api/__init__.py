"""The Python API: collections in this process or of a service, with the same methods, synchronous or not.

Each method is written once for each place, as *steps* (:mod:`.steps`): a generator that says what is to be done next
(:mod:`.embedded`: work in this process; :mod:`.remote`: a request) and is sent what came of it. Who runs the steps
decides whether they wait or are awaited; :mod:`.collections` and :mod:`.libraries` are the methods that users see.
"""
