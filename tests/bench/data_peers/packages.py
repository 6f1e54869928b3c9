"""What the loaders need from PyPI."""

from environment import TORCH, TORCH_NEEDS, Packages

ALONE = [
    *TORCH,
    # Asks for other clouds' clients, matplotlib, transformers and torchvision.
    "mosaicml-streaming==0.13.0",
    # Asks for torchvision and tifffile, for images only.
    "litdata==0.2.76",
    "webdataset==1.0.2",
]
OTHERS = [
    *TORCH_NEEDS,
    "pyarrow==26.0.1",
    "datasets==5.2.0",
    "boto3==1.44.5",
    "obstore==0.12.1",
    "xxhash==3.6.0",
    "numpy==2.1.3",
    "requests",
    # What those above import.
    "Brotli",
    "braceexpand",
    "catalogue<3",
    "lightning-utilities",
    "python-snappy<1",
    "zstd<2",
    "pillow",
]
# What MosaicML Streaming imports for its text and image sets, by module. It wants transformers < 5, which wants an older
# huggingface-hub than datasets does, and torchvision wants CUDA. Here each name is an empty class.
EMPTY = {
    "transformers.feature_extraction_utils": ["BatchFeature"],
    "transformers.tokenization_utils_base": ["BatchEncoding"],
    "transformers.models.auto.tokenization_auto": ["AutoTokenizer"],
    "torchvision.datasets": ["VisionDataset"],
    "torchvision.transforms.functional": ["to_tensor"],
}
# The packages whose versions a report names.
NAMED = ["mosaicml-streaming", "litdata", "webdataset", "pyarrow", "datasets", "torch", "numpy"]
LOADERS = Packages(ALONE, OTHERS, EMPTY, NAMED)
