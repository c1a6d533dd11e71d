"""How good a picture is: its distance from an original, on features that no training looks at."""
