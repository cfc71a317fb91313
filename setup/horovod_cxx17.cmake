# Where Horovod asks for C++14 the compiler is given C++17.
set(CMAKE_CXX14_STANDARD_COMPILE_OPTION "-std=c++17")
