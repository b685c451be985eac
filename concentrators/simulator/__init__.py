"""Simulated meters and concentrators: real frames over real HTTP, and the truth to compare with."""
