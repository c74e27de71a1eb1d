"""Fine-tuning with learning rate 0: does what was saved hold, and do, what it did before?

drive_*    one optimiser step through a stack's own save and load
saved      what a folder holds, name by name, before anything interprets it
compare    two sets of named tensors: what changed, and what changed it
function   one guided transformer call on fixed inputs, before and after
check      puts them together for a driven round trip and for two folders that exist
"""
