"""The ground floor: what every app may import. It knows no product word and imports nothing of ours."""
