"""Scripts to read and change, cell by cell (``# %%``): each is run by a test."""
