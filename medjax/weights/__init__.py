"""Safetensors to parameter trees and back, one name table per network."""
