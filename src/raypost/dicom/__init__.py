"""DICOM files, lossless pixels and DICOM networking."""
