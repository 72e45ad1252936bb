"""Images and patients of a hospital: loaders, the phantom, the split, and their embeddings."""
