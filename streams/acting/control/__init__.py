"""The controller: fused states in, commands out, by a classical tracker or a learnt policy."""
