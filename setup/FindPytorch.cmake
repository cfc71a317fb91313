# torch as a Horovod sees it that moves host memory only (Gloo); found before Horovod's own module of this name.
# Horovod's module takes any CUDA compiler on the machine as a wish for a GPU build as soon as torch is a CUDA build, which
# pip's torch is everywhere; this one never does.
function(ask_torch variable expression)
    execute_process(
        COMMAND ${PY_EXE} -c "import torch, torch.utils.cpp_extension as extension; print(${expression})"
        OUTPUT_VARIABLE answer OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
    set(${variable} "${answer}" PARENT_SCOPE)
endfunction()

ask_torch(Pytorch_VERSION "torch.__version__")
ask_torch(Pytorch_CXX11 "str(torch.compiled_with_cxx11_abi()).upper()")
ask_torch(Pytorch_INCLUDE_DIRS "';'.join(extension.include_paths('cpu'))")
ask_torch(Pytorch_LIBRARY_DIRS "';'.join(extension.library_paths('cpu'))")
foreach(library c10 torch torch_cpu torch_python)
    find_library(Pytorch_${library}_LIBRARY ${library} HINTS ${Pytorch_LIBRARY_DIRS} REQUIRED)
    list(APPEND Pytorch_LIBRARIES ${Pytorch_${library}_LIBRARY})
endforeach()
if(Pytorch_CXX11)
    set(Pytorch_COMPILE_FLAGS "-D_GLIBCXX_USE_CXX11_ABI=1")
else()
    set(Pytorch_COMPILE_FLAGS "-D_GLIBCXX_USE_CXX11_ABI=0")
endif()
set(Pytorch_CUDA FALSE)
set(Pytorch_ROCM FALSE)

include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(
    Pytorch REQUIRED_VARS Pytorch_VERSION Pytorch_INCLUDE_DIRS Pytorch_LIBRARIES VERSION_VAR Pytorch_VERSION)
