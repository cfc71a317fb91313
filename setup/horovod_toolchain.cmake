# Handed to CMake through the environment variable CMAKE_TOOLCHAIN_FILE (CMake >= 3.21) while Horovod is built.
# Horovod 0.28.1 sets CMAKE_CXX_STANDARD 14 by itself; torch's headers need C++17. A file named in CMAKE_PROJECT_INCLUDE
# is read after every project() call, which is late enough to win without a patch of Horovod's source.
set(CMAKE_PROJECT_INCLUDE "${CMAKE_CURRENT_LIST_DIR}/horovod_cxx17.cmake")

# FindPytorch.cmake beside this file; a GPU build (HOROVOD_GPU_OPERATIONS=NCCL) takes Horovod's own.
if(NOT DEFINED ENV{HOROVOD_GPU_OPERATIONS})
    list(PREPEND CMAKE_MODULE_PATH "${CMAKE_CURRENT_LIST_DIR}")
endif()
