import os

# Threads of OpenMP (FAISS, torch) else spin while they wait: a graph of 3,000 vectors took three times its arithmetic.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
