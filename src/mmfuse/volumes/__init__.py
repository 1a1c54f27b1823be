"""Volumes: NIfTI files and DICOM series, fused slice by slice. The result is not for diagnosis.

nibabel, pydicom and SimpleITK are the optional extra `mmfuse[medical]`; only this package imports them.
"""
