"""OCI: documents, registries and archives of images; layers and images on their way to and from them."""
